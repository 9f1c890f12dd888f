"""`python -m acgd`."""

from acgd.commands.main import main

if __name__ == "__main__":
    main()
