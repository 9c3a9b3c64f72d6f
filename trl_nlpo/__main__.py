"""`python -m trl_nlpo` is `trl-nlpo`."""

from .cli import main


if __name__ == "__main__":
    main()
