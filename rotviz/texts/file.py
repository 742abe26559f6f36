"""Text that somebody brings: a .txt file, an upload, a pasted prompt. UTF-8 or nothing.

A wrong guess of the encoding would not fail, it would only make the perplexity worse; so nothing is guessed.
"""

from pathlib import Path

from rotviz.errors import BadText

LIMIT_MB = 200
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_file(path: Path) -> str:
    """The text of a file.

    Raises:
        BadText: it is missing, a folder, empty, binary, not UTF-8, or too large.
    """
    if path.is_dir():
        raise BadText(f"{path} is a folder; give the path of one UTF-8 .txt file")
    if not path.is_file():
        raise BadText(f"there is no text file {path}; give the path of a UTF-8 .txt file, or use pydoc, which ships with Python")
    if path.stat().st_size > LIMIT_MB * 10**6:
        raise BadText(f"{path} has {path.stat().st_size / 1e6:.0f} MB; a text may have up to {LIMIT_MB} MB, so cut it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadText(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    return text_from_bytes(data, str(path))


def text_from_bytes(data: bytes, name: str) -> str:
    """The text that UTF-8 bytes hold, without a byte order mark and with line ends as newlines.

    Args:
        data: what was uploaded or read.
        name: what to call it in messages.

    Raises:
        BadText: it is empty, binary, not UTF-8, or too large.
    """
    if len(data) > LIMIT_MB * 10**6:
        raise BadText(f"{name} has {len(data) / 1e6:.0f} MB; a text may have up to {LIMIT_MB} MB, so cut it")
    if data.startswith(UTF16_MARKS):
        raise BadText(f"{name} is UTF-16 text; save it as UTF-8")
    if b"\0" in data:
        raise BadText(f"{name} is a binary file, not text; give plain UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadText(f"{name} is not UTF-8 text (byte {data[error.start]:#04x} at position {error.start}); save it as UTF-8") from error
    return checked_text(text.replace("\r\n", "\n").replace("\r", "\n"), name)


def checked_text(text: str, name: str) -> str:
    """The text itself, if there is anything in it that a tokenizer can take.

    Raises:
        BadText: it is empty or only blank, or holds half a surrogate pair.
    """
    if not text.strip():
        raise BadText(f"{name} is empty; give a text with at least a few words")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadText(f"{name} holds half of a surrogate pair at position {error.start}, which is no character; remove it") from error
    return text
