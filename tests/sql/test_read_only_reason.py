"""bank.read_only_reason says what is set so that nothing can be written, and nothing where it can."""

from tests.conftest import Connection
from tests.helpers import call


def reason(app: Connection) -> str | None:
    told: str | None = call(app, "read_only_reason")["read_only_reason"]
    return told


def test_a_transaction_that_is_read_only_by_itself_is_told_from_a_setting(app: Connection) -> None:
    assert reason(app) is None
    with app.transaction():
        app.execute("set transaction read only")
        assert reason(app) == "transaction_read_only"
    assert reason(app) is None
    app.execute("set default_transaction_read_only = on")
    assert reason(app) == "default_transaction_read_only"
    with app.transaction():
        app.execute("set transaction read write")
        assert reason(app) is None
