"""A shop of four services that know each other only by events, run on real orders by `make demo`. See README.md."""
