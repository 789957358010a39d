"""MP4 files, which programs for talks and messages take where they take no animated picture."""

import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from importlib.util import find_spec

import numpy as np

FILM = ".mp4"
OPTIONS = {"crf": "14", "preset": "medium", "tune": "animation", "bf": "0", "rc-lookahead": "0"}
"""Of x264; crf is the loss, and at 14 none is seen. Its lookahead reads memory that it has not written, so that with
it the bytes would differ from time to time."""
MILLISECOND = Fraction(1, 1000)
"""Unit of time in the file."""
CAN_FILM = find_spec("av") is not None
"""Whether PyAV is there, which brings x264."""


def film_of(frames: Iterable[np.ndarray], durations: Sequence[int]) -> bytes:
    """An MP4 file of H.264, each time the same bytes.

    Args:
        frames: uint8 (H, W, 3); their edges are continued to multiples of 16 pixels.
        durations: Milliseconds of each.

    Raises:
        ModuleNotFoundError: PyAV is missing.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "bitexact"}) as container:
        stream = container.add_stream("libx264", rate=25, options=OPTIONS)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"  # the one that every player knows
        stream.time_base = MILLISECOND
        stream.codec_context.thread_count = 1  # the bytes depend on the number
        begins = np.cumsum([0, *durations]).tolist()
        for begin, frame in zip(begins, _with_end(frames), strict=True):
            # x264 codes blocks of 16 pixels; what lies beyond the frame would be anything.
            frame = np.pad(frame, [(0, -frame.shape[0] % 16), (0, -frame.shape[1] % 16), (0, 0)], "edge")
            if begin == 0:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = begin, MILLISECOND
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def _with_end(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, the last of them twice: a frame is shown until the next one begins."""
    for frame in frames:
        yield frame
    yield frame
