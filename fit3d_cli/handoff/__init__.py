"""Models for other programs: timm, torch.hub, ONNX Runtime, transformers; and models from them."""
