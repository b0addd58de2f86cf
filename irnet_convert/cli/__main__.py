"""``python -m irnet_convert.cli``."""

from irnet_convert.cli import main

main()
