"""`python run.py`: the same as `python -m acgd` and the installed `acgd`."""

from acgd.__main__ import main

if __name__ == "__main__":
    main()
