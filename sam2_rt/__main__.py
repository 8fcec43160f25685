"""`python -m sam2_rt …` is `sam2_rt …`."""

import sys

from sam2_rt.cli import main

if __name__ == '__main__':
    sys.exit(main())
