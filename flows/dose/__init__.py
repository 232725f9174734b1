"""`tdt dose`: dosimetry of one therapy cycle without a twin. A folder in, maps, tables and a page out; no store is touched."""
