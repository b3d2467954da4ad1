"""Where jobs run: the launchers, by what the driver asks of them."""
