"""The workshop: PyTorch network, checkpoints, ONNX export and verification.

Runs from a checkout (`python -m export.…`), never installed: nothing in `sam2_rt` imports it.
"""
