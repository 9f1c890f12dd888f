"""Train MusCaps on Clotho: python scripts/train_muscaps.py --data clotho --out runs/muscaps.

The defaults are the notebook's: frozen HarmonicCNN, early fusion, Adam at 1e-4 with linear decay,
batches of 16, patience of 10 epochs. Run it again to go on with a training that was stopped.
"""

from acgd.training.muscaps import main

if __name__ == "__main__":
    main()
