"""Published weights into the cache: python scripts/fetch.py --help. See acgd/fetch.py."""

import sys

from acgd.fetch import main

if __name__ == "__main__":
    sys.exit(main())
