"""What carries data in many formats: zip, tar, JSON, msgpack and protocol buffers, read strictly."""
