"""Example applications. Each module has an `app` with an example of its arguments."""
