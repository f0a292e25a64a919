"""The documentation site: what of it is generated, how it is built, and how its examples are found.

`make docs` builds it into `build/site`. Pages that people write lie in `docs/`; nothing here is part of the program.
"""
