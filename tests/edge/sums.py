"""A small application of functions, for the tests: one task is pinned to each end."""

from mrlato_jax.edge.application import Application

app = Application("sums")


@app.task(pin="ue")
def times(factor, values):
    return [factor * value for value in values]


@app.task(pin="server")
def add(values):
    return sum(values)


@app.task
def both(left, right):
    return left + right


@app.flow
def sums(first, second):
    scaled = times(first, second)
    return [both(add(scaled), both(add(second), both(add(scaled), add(second)))), scaled]


@app.example
def some():
    return {"first": 3, "second": [1.0, 2.0]}
