"""Where a server listens, and by which names it may be called there."""

import pytest

from tunewise.errors import UserError
from tunewise.listening import listening, names_of, url_of


@pytest.mark.parametrize(
    ("host", "port", "told"), [("127.0.0.1", 70_000, "port must be 0-65535"), ("192.0.2.1", 0, "Cannot assign")]
)
def test_an_address_that_is_none_of_this_machine_is_told(host: str, port: int, told: str) -> None:
    with pytest.raises(UserError, match=rf"cannot listen at {host}:{port}: .*{told}.*\n.*another --host"):
        listening(host, port).__enter__()


def test_on_loopback_this_machine_is_called_by_its_own_names_alone() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert {"127.0.0.1", "localhost", "[::1]", host} <= {*names_of(host)}
        assert not [name for name in names_of(host) if "*" in name]
    assert names_of("0.0.0.0") == names_of("host.example") == ["*"]
    with listening("127.0.0.1", 0) as at:
        assert url_of(at) == f"http://127.0.0.1:{at.getsockname()[1]}"
