"""Applications that come with the project: each module has an `app` with an example of its arguments."""
