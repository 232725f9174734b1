"""A physical SPECT chain: projections with attenuation, collimator blur, scatter and counting noise, and their reconstruction.

`docs/phantom.md` says what it models and how its images differ from those of the fast image-domain mode.
"""
