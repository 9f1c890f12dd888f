"""The length of a FLAC stream that was piped, so that its header never learnt it (RFC 9639)."""

from __future__ import annotations

from typing import BinaryIO

TOTAL = 21  # place of the byte whose lower half begins the 36 bits of the total
LARGEST = 1 << 20  # bytes; no frame of usual settings is larger


def patch(file: BinaryIO, size: int) -> dict[int, bytes]:
    """{place: bytes} that put the true total into a header without one; {} where it has one."""
    file.seek(0)
    head = file.read(26)
    if head[:4] != b"fLaC" or len(head) < 26 or head[TOTAL] & 0x0F or any(head[TOTAL + 1 :]):
        return {}
    file.seek(max(0, size - LARGEST))
    total = last_sample(file.read(LARGEST), int.from_bytes(head[8:10], "big"))
    return {TOTAL: bytes([head[TOTAL] | total >> 32 & 0x0F]) + (total & 0xFFFFFFFF).to_bytes(4)}


def last_sample(tail: bytes, block: int) -> int:
    """Samples up to the end of the last frame in `tail`; 0 without a frame.

    block: the samples of each frame but the last, as the header says.
    """
    at = tail.rfind(b"\xff")
    while at >= 0:
        if end := frame_end(tail[at : at + 16], block):
            return end
        at = tail.rfind(b"\xff", 0, at)
    return 0


def frame_end(header: bytes, block: int) -> int | None:
    """The number of the sample behind a frame, from its header; None for bytes that are none."""
    if len(header) < 6 or header[1] not in (0xF8, 0xF9):
        return None
    extra = next((n for n in range(8) if not header[4] << n & 0x80), 8)  # as UTF-8 has it
    extra = max(extra - 1, 0)
    number = header[4] & (0x7F if not extra else 0x3F >> extra)
    place = 5 + extra
    for byte in header[5:place]:
        number = number << 6 | byte & 0x3F
    code, rate = header[2] >> 4, header[2] & 0x0F
    wide = {6: 1, 7: 2}.get(code, 0)
    block_size = int.from_bytes(header[place : place + wide], "big") + 1
    if not wide:
        block_size = (
            192 if code == 1 else 576 << code - 2 if 2 <= code <= 5 else 256 << max(code - 8, 0)
        )
    place += wide + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if not code or rate == 15 or place >= len(header) or crc8(header[:place]) != header[place]:
        return None
    return (number if header[1] & 1 else number * block) + block_size


def crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
