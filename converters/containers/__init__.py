"""Where tensors lie: in safetensors files, shards and PyTorch's own files, and in the safetensors file to be."""
