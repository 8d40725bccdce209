"""An answer of a cloud that is an error."""


class Refused(Exception):
    """It is sent as the service sends its errors."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
