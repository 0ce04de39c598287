"""The five tools as data: catalog, schemas, argument validation, reference and result types."""
