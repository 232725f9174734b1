"""Everything that touches a disk or a network: DICOM, labs, evidence, twin store, trial store, MLflow, audit trail."""
