"""What libraries are known to do, as data with its source: spellings, packing of fused rows, rotary pairings."""
