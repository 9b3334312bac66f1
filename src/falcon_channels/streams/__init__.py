"""Writers of streams: batches, back-pressure, continuation and abort."""
