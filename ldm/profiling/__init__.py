"""Speed and memory of training and editing, next to a plain implementation and to diffusers."""
