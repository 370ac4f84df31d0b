"""What the notebooks show: their pictures, sliders, command lines and memory traces."""
