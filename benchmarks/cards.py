"""The peaks of NVIDIA's cards, with which measured and estimated speeds are compared."""

PEAKS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "T4": 65,
}
"""TFLOP/s of dense bf16 products that are summed in float32, by a part of the card's name, special names first.

Fp16 on the T4, which has no bf16. As NVIDIA states them; where its data sheets give the speed for matrices that are
half zeros, half of that."""


def peak_of(card: str) -> float | None:
    """Peak in TFLOP/s of a card by the name that its driver gives it; None if it is not known here."""
    return next((value for part, value in PEAKS.items() if part in card), None)
