"""`python -m recoach`, which is also what torchrun is given."""

from recoach.cli.main import main

if __name__ == "__main__":
    main()
