"""Policies for other programs: weights as safetensors, the deterministic policy as ONNX."""
