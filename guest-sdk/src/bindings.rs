//! The provider ABI, generated from `wit/v0/provider.wit`. Nothing is added here.

#![allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, clippy::pedantic, clippy::indexing_slicing)]

wit_bindgen::generate!({
    path: "../wit/v0",
    world: "provider",
    additional_derives: [PartialEq, Eq],
    generate_unused_types: true,
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "keyward_guest::bindings",
});
