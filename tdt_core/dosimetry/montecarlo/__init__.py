"""Monte Carlo transport of photons and electrons in voxels: the reference that kernel engines are measured against.

Modules from the ground up: `grid` (energies of all tables), `composition` (media), `density_effect`, `stopping`,
`radiative`, `elastic`, `photons` (cross sections), `tables` (all of it as arrays), `random`, `geometry`, `electron`, `photon`,
`history` (compiled transport), `source` (what decays), `run` (blocks of histories, threads, statistics).
"""
