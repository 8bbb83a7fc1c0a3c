"""What is wrong with a grader."""


class GraderFault(Exception):
    """A grader that cannot be used, or not on this row; `param` is the field within the grader."""

    def __init__(self, message: str, param: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
