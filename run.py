"""`python run.py`: the same as `python -m acgd` and the installed `acgd`."""

from acgd.cli import main

if __name__ == "__main__":
    main()
