"""Entry point of `python -m recoach`, also for torchrun."""

from recoach.cli.main import main

if __name__ == "__main__":
    main()
