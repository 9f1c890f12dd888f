"""`python run.py`: the same as `python -m acgd` and the installed `acgd`."""

from acgd.commands.main import main

if __name__ == "__main__":
    main()
