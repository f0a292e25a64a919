"""Opens a catalog with NautilusTrader and prints what it says, as JSON: run by the interpreter that has it."""

import json
import sys

from nautilus_trader.persistence.catalog import ParquetDataCatalog  # type: ignore[import-not-found]


def main(folder: str) -> None:
    """Print all instruments and all bars of the catalog."""
    catalog = ParquetDataCatalog(folder)
    instruments = [
        {
            "id": str(each.id),
            "type": type(each).__name__,
            "raw_symbol": str(each.raw_symbol),
            "strike": float(each.strike_price) if hasattr(each, "strike_price") else None,
            "kind": each.option_kind.name if hasattr(each, "option_kind") else None,
            "expiration_ns": each.expiration_ns,
            "increment": str(each.price_increment),
            "lot_size": str(each.lot_size),
            "asset_class": each.asset_class.name,
            "info": each.info,
        }
        for each in catalog.instruments()
    ]
    bars = [
        [str(bar.bar_type), bar.ts_event, *map(str, (bar.open, bar.high, bar.low, bar.close, bar.volume))]
        for bar in catalog.bars()
    ]
    json.dump({"instruments": instruments, "bars": bars}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
