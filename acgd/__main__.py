"""`python -m acgd`."""

from acgd.commands.run import main

if __name__ == "__main__":
    main()
