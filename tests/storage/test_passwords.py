import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import SecretStr

from app.storage.passwords import PasswordCipher, make_key_file


def test_a_key_file_is_made_once_whoever_comes_first_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "secret-key"

    def key_after_making(_: int) -> str:
        make_key_file(file)
        return file.read_text()

    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(key_after_making, range(32)))
    assert len(keys) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret-key"]
    cipher = PasswordCipher(SecretStr(keys.pop()))
    assert cipher.decrypt(cipher.encrypt("lighthouse")) == "lighthouse"
