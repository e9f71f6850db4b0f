"""Arguments that several commands have."""

from typing import Annotated

from cyclopts import Parameter

Estate = Annotated[str, Parameter(help="The estate, for example acme.")]
Pool = Annotated[str, Parameter(help="The pool, for example acme/west.")]
EstateOrPool = Annotated[str, Parameter(help="A pool, for example acme/west, or an estate for all its pools.")]
Product = Annotated[str, Parameter(help="The product, for example encoder-1x1.")]
Licence = Annotated[str, Parameter(help="The licence, for example acme/L000001.")]
Node = Annotated[str, Parameter(help="The node, for example acme/studio-7.")]
Consumer = Annotated[str, Parameter(help="The consumer, for example acme/camera-4.")]
Allocation = Annotated[str, Parameter(help="The allocation, for example acme/west/01JD8Q.")]
Code = Annotated[str, Parameter(help="The code's name as `code list` shows it, for example acme/west/c7k2.")]
Token = Annotated[str, Parameter(help="The token's name as `token list` shows it, for example t7k2.")]
Reason = Annotated[str, Parameter(help="Why; it is kept with the record.")]
