"""Runs a component of the world `wasi:cli/command` with wasmtime's library, its network over `wasi:http` included."""

import os
import tempfile

# Below the repository's root, where the guests' tests leave it: the caller `rank` with the client in it.
RANK = "target/guests/composed/rank.wasm"


def run(path, text, variables):
    """Gives the component this standard input and these variables; returns its standard output and whether it is done."""
    import wasmtime
    from wasmtime import component

    engine = wasmtime.Engine()
    linker = component.Linker(engine)
    linker.add_wasip2()
    linker.add_wasi_http()
    with tempfile.TemporaryDirectory() as folder:
        standard_input, output = os.path.join(folder, "in"), os.path.join(folder, "out")
        with open(standard_input, "w", encoding="utf-8") as file:
            file.write(text)
        wasi = wasmtime.WasiConfig()
        wasi.argv = ["component"]
        wasi.env = list(variables.items())
        wasi.stdin_file = standard_input
        wasi.stdout_file = output
        store = wasmtime.Store(engine)
        store.set_wasi(wasi)
        store.set_wasi_http()
        instance = linker.instantiate(store, component.Component.from_file(engine, path))
        interface = instance.get_export_index(store, "wasi:cli/run@0.2.0")
        function = instance.get_func(store, instance.get_export_index(store, "run", interface))
        result = function(store)
        function.post_return(store)
        del instance, function, store
        with open(output, encoding="utf-8") as file:
            return file.read(), result
