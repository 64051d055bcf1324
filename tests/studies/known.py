"""An executor for tests of what is said over runs."""


class Known:
    """An executor that has all answers: a function of a job."""

    def __init__(self, of):
        self.of = of

    def map(self, function, jobs, *, journal=None):
        return [self.of(job) for job in jobs]
