"""What calls return, as frozen values that show themselves: reports, inspections, comparisons, verifications."""
