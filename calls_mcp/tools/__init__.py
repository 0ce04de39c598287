"""The five tools as data: catalog, schemas, validation of arguments, reference, result types."""
