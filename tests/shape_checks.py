"""What checks annotations at run time, in tests only: beartype, for whom a whole number is a float too."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
