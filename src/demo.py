"""`python -m src.demo`: see `robustdet.cli.demo`."""

from robustdet.cli.demo import main

if __name__ == "__main__":
    main()
