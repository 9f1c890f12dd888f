"""Published weights into the cache: python scripts/fetch.py --help. See acgd/commands/fetch.py."""

import sys

from acgd.commands.fetch import main

if __name__ == "__main__":
    sys.exit(main())
