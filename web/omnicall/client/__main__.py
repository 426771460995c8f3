"""`python -m omnicall.client URL`: the same as `omnicall call URL`."""

import sys

from omnicall.client.command import main

if __name__ == "__main__":
    sys.exit(main())
