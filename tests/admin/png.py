"""Screenshots made small: a PNG of at most 256 colours, which is all that a page of text and badges needs."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from typing import Final

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_COLORS_MAX: Final = 256
_STEP: Final = 12
"""Of rare colours: those of the edges of letters, between which nobody sees a difference."""


def smaller(content: bytes) -> bytes:
    """The same picture with a palette (PNG, https://www.w3.org/TR/png-3/): 8 bits a pixel instead of 24 or 32.

    Args:
        content: a PNG without interlacing, 8 bits per channel, RGB or RGBA, as Chromium makes them.
    """
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", _chunk(content, b"IHDR"))
    assert (depth, interlaced) == (8, 0)
    assert kind in (2, 6), kind
    rows = _unfiltered(zlib.decompress(_chunk(content, b"IDAT")), width, height, 3 if kind == 2 else 4)
    counted: Counter[Color] = Counter()
    for row in rows:
        counted.update(row)
    places = _places(counted)
    palette = [color for color, at in sorted(places.items(), key=lambda pair: pair[1])]
    for color in counted:
        if color not in places:
            near = places.get(_coarse(color))
            places[color] = (
                near if near is not None else min(range(len(palette)), key=lambda at: _apart(palette[at], color))
            )
    packed = zlib.compress(b"".join(b"\0" + bytes(places[pixel] for pixel in row) for row in rows), 9)
    return b"".join(
        [
            _SIGNATURE,
            _made(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _made(b"PLTE", b"".join(map(bytes, palette))),
            _made(b"IDAT", packed),
            _made(b"IEND", b""),
        ]
    )


Color = tuple[int, int, int]


def _places(counted: Counter[Color]) -> dict[Color, int]:
    """The palette: colours that are frequent as they are, the others coarsely."""
    palette = [color for color, _ in counted.most_common(_COLORS_MAX)]
    if len(counted) > _COLORS_MAX:
        palette = palette[: _COLORS_MAX // 2]
        coarse: Counter[Color] = Counter()
        for color in counted.keys() - set(palette):
            coarse[_coarse(color)] += counted[color]
        palette += [color for color, _ in coarse.most_common() if color not in palette][: _COLORS_MAX - len(palette)]
    return {color: at for at, color in enumerate(palette)}


def _coarse(color: Color) -> Color:
    red, green, blue = (min(255, part // _STEP * _STEP + _STEP // 2) for part in color)
    return red, green, blue


def _apart(one: Color, other: Color) -> int:
    return sum((left - right) ** 2 for left, right in zip(one, other, strict=True))


def _chunk(content: bytes, kind: bytes) -> bytes:
    """The data of all chunks of a kind."""
    assert content.startswith(_SIGNATURE)
    found, at = b"", len(_SIGNATURE)
    while at < len(content):
        length, name = struct.unpack(">I4s", content[at : at + 8])
        if name == kind:
            found += content[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def _made(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _unfiltered(data: bytes, width: int, height: int, channels: int) -> list[list[Color]]:
    """The pixels of each row: filters 0 to 4 taken back, transparency left out."""
    stride = width * channels
    above = bytearray(stride)
    rows = []
    for at in range(height):
        begin = at * (stride + 1)
        line = bytearray(data[begin + 1 : begin + 1 + stride])
        _take_back(data[begin], line, above, channels)
        rows.append(list(zip(line[0::channels], line[1::channels], line[2::channels], strict=True)))
        above = line
    return rows


def _take_back(kind: int, line: bytearray, above: bytearray, channels: int) -> None:
    match kind:
        case 1:
            for at in range(channels, len(line)):
                line[at] = (line[at] + line[at - channels]) & 255
        case 2:
            line[:] = bytes((one + other) & 255 for one, other in zip(line, above, strict=True))
        case 3:
            for at in range(len(line)):
                left = line[at - channels] if at >= channels else 0
                line[at] = (line[at] + (left + above[at]) // 2) & 255
        case 4:
            for at in range(len(line)):
                left, corner = (line[at - channels], above[at - channels]) if at >= channels else (0, 0)
                up = above[at]
                guess = left + up - corner
                near = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))
                line[at] = (line[at] + near[2]) & 255
