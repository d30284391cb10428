//! Typed calls, one for each verb that this crate uses.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_core::Resource;
use kube_core::params::{
    DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions, ValidationDirective,
    VersionMatch,
};
use kube_core::request::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;

use keyward_core::ids::GroupResource;

use super::{
    Call, CallError, Category, Cause, Cluster, FIELD_MANAGER, LONGEST_MESSAGE, Pager, Scope, Step, cut,
};

const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The response to a write: metadata for the next write, and nothing secret.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub(crate) struct Meta {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
}

impl Cluster {
    /// `None` if it does not exist.
    pub(crate) async fn get<K>(&self, namespace: Option<&str>, name: &str) -> Result<Option<K>, CallError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let object = described::<K>(namespace, name);
        let call = Call { verb: "get", object: &object };
        let request = Request::new(K::url_path(&(), namespace));
        let result = self.read(&call, || request.get(name, &GetParams::default())).await;
        match result {
            Ok(body) => parse(&call, &body).map(Some),
            Err(error) if error.category() == Category::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind with these labels, read in pages.
    pub(crate) async fn list<K>(
        &self,
        namespace: Option<&str>,
        labels: Option<&str>,
    ) -> Result<Vec<K>, CallError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let scope = if namespace.is_some() { Scope::Namespace } else { Scope::Cluster };
        let mut pager = Pager::of(K::url_path(&(), namespace), &K::plural(&()), scope).labels(labels);
        let mut all = Vec::new();
        loop {
            match pager.next(self).await? {
                Step::Page(page) => all.extend(page.items),
                // Only kinds that are never encrypted are listed this way.
                Step::Undecodable(bad) => return Err(bad.error),
                Step::End => return Ok(all),
            }
        }
    }

    /// Creates only: 409 if the object exists.
    pub(crate) async fn create<K>(&self, namespace: Option<&str>, body: &K) -> Result<Meta, CallError>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let name = body.meta().name.clone().unwrap_or_default();
        let object = described::<K>(namespace, &name);
        let call = Call { verb: "create", object: &object };
        let request = encode(&call, body)?;
        let request = Request::new(K::url_path(&(), namespace)).create(&params(), request);
        self.write(&call, strict(request)).await
    }

    /// Depends on the `resourceVersion` in `body`, and is refused here if there is none.
    pub(crate) async fn replace<K>(&self, namespace: Option<&str>, body: &K) -> Result<Meta, CallError>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let name = body.meta().name.clone().unwrap_or_default();
        let object = described::<K>(namespace, &name);
        let call = Call { verb: "update", object: &object };
        versioned(&call, body.meta())?;
        let request = encode(&call, body)?;
        let request = Request::new(K::url_path(&(), namespace)).replace(&name, &params(), request);
        self.write(&call, strict(request)).await
    }

    /// Like [`Cluster::replace`], for the status alone.
    pub(crate) async fn replace_status<K>(&self, body: &K) -> Result<Meta, CallError>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let name = body.meta().name.clone().unwrap_or_default();
        let object = format!("{}/status {name}", K::plural(&()));
        let call = Call { verb: "update", object: &object };
        versioned(&call, body.meta())?;
        let request = encode(&call, body)?;
        let request =
            Request::new(K::url_path(&(), None)).replace_subresource("status", &name, &params(), request);
        self.write(&call, strict(request)).await
    }

    /// Sets these finalizers on the version that was read.
    pub(crate) async fn set_finalizers<K>(
        &self,
        namespace: Option<&str>,
        name: &str,
        resource_version: &str,
        finalizers: &[String],
    ) -> Result<Meta, CallError>
    where
        K: Resource<DynamicType = ()>,
    {
        let object = described::<K>(namespace, name);
        let call = Call { verb: "patch", object: &object };
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": resource_version, "finalizers": finalizers},
        });
        let manager = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
        let request = Request::new(K::url_path(&(), namespace)).patch(name, &manager, &Patch::Merge(&patch));
        self.write(&call, request).await
    }

    /// Deletes exactly the version that was read.
    pub(crate) async fn delete<K>(
        &self,
        namespace: Option<&str>,
        name: &str,
        resource_version: &str,
    ) -> Result<(), CallError>
    where
        K: Resource<DynamicType = ()>,
    {
        let object = described::<K>(namespace, name);
        let call = Call { verb: "delete", object: &object };
        let preconditions = Preconditions { resource_version: Some(resource_version.to_owned()), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
        let request = Request::new(K::url_path(&(), namespace)).delete(name, &params);
        self.send(&call, metadata_only(request)).await.map(drop)
    }

    /// A no-op merge patch with uid and resourceVersion: the API server stores the object again if the stored value is
    /// not under the current write key (kubernetes: only-stale-values-are-rewritten). The response has metadata only.
    pub(crate) async fn touch(
        &self,
        collection: &str,
        resource: &str,
        object: &ObjectMeta,
    ) -> Result<Meta, CallError> {
        let name = object.name.as_deref().unwrap_or_default();
        let described = format!("{resource} {}", full_name(object));
        let call = Call { verb: "patch", object: &described };
        let patch = serde_json::json!({
            "metadata": {"uid": object.uid, "resourceVersion": object.resource_version},
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            // Unknown fields that an object already has do not matter here.
            field_validation: Some(ValidationDirective::Ignore),
            ..Default::default()
        };
        let request = Request::new(collection).patch_metadata(name, &params, &Patch::Merge(&patch));
        let body = self.send(&call, request).await?;
        parse(&call, &body)
    }

    /// The metadata of one stored object. A get without a resourceVersion is read from etcd, past the watch cache,
    /// and no admission plugin or webhook takes part (kubernetes: gets-are-read-from-etcd). The API server decrypts
    /// the object for it.
    pub(crate) async fn get_metadata(
        &self,
        collection: &str,
        resource: &GroupResource,
        full_name: &str,
    ) -> Result<ObjectMeta, CallError> {
        let described = format!("{resource} {full_name}");
        let call = Call { verb: "get", object: &described };
        let name = full_name.rsplit_once('/').map_or(full_name, |(_, name)| name);
        let request = || Request::new(collection).get_metadata(name, &GetParams::default());
        let body = self.read(&call, request).await?;
        let found: Meta = parse(&call, &body)?;
        let is_it = found.metadata.name.as_deref() == Some(name);
        let has_version =
            found.metadata.resource_version.as_deref().is_some_and(|version| !version.is_empty());
        if is_it && has_version {
            Ok(found.metadata)
        } else {
            Err(call.failed(Cause::Incomplete("metadata")))
        }
    }

    /// Whether this credential is allowed to use the verb on every object of a resource.
    pub(crate) async fn is_allowed(&self, verb: &str, resource: &GroupResource) -> Result<bool, CallError> {
        #[derive(serde::Deserialize)]
        struct Review {
            status: ReviewStatus,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ReviewStatus {
            allowed: bool,
            #[serde(default)]
            evaluation_error: String,
        }
        let described = format!("selfsubjectaccessreviews for {verb} {resource}");
        let call = Call { verb: "create", object: &described };
        let review = serde_json::json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": verb, "group": resource.group, "resource": resource.resource,
            }},
        });
        let body = encode(&call, &review)?;
        // It stores nothing, so it can be retried.
        let request = || {
            http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body.clone())
                .map_err(kube_core::request::Error::BuildRequest)
        };
        let body = self.read(&call, request).await?;
        let ReviewStatus { allowed, evaluation_error } = parse::<Review>(&call, &body)?.status;
        if !allowed && !evaluation_error.is_empty() {
            // An authorizer that failed did not refuse.
            return Err(call.failed(Cause::Transport(cut(&evaluation_error, LONGEST_MESSAGE).to_owned())));
        }
        Ok(allowed)
    }

    /// Lists a collection as it was at a resourceVersion. An error if that is not possible any more.
    pub(crate) async fn list_at(
        &self,
        collection: &str,
        resource: &str,
        version: &str,
    ) -> Result<(), CallError> {
        let call = Call { verb: "list", object: resource };
        let params = ListParams {
            limit: Some(1),
            resource_version: Some(version.to_owned()),
            version_match: Some(VersionMatch::Exact),
            ..Default::default()
        };
        self.read(&call, || Request::new(collection).list_metadata(&params)).await.map(drop)
    }

    /// A document that is not an object, for discovery.
    pub(crate) async fn document<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let call = Call { verb: "get", object: path };
        let request =
            || http::Request::get(path).body(Vec::new()).map_err(kube_core::request::Error::BuildRequest);
        let body = self.read(&call, request).await?;
        parse(&call, &body)
    }

    async fn write(
        &self,
        call: &Call<'_>,
        request: Result<http::Request<Vec<u8>>, kube_core::request::Error>,
    ) -> Result<Meta, CallError> {
        let body = self.send(call, metadata_only(request)).await?;
        parse(call, &body)
    }
}

/// `namespace/name`, or the name if there is no namespace. The API server lists in this order.
pub(crate) fn full_name(object: &ObjectMeta) -> String {
    let name = object.name.as_deref().unwrap_or_default();
    match object.namespace.as_deref() {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
        _ => name.to_owned(),
    }
}

pub(super) fn parse<T: DeserializeOwned>(call: &Call<'_>, body: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(body)
        .map_err(|error| call.failed(Cause::Malformed { line: error.line(), column: error.column() }))
}

fn described<K: Resource<DynamicType = ()>>(namespace: Option<&str>, name: &str) -> String {
    let plural = K::plural(&());
    match namespace {
        Some(namespace) => format!("{plural} {namespace}/{name}"),
        None => format!("{plural} {name}"),
    }
}

fn encode<K: Serialize>(call: &Call<'_>, body: &K) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(body).map_err(|_| call.failed(Cause::Request("it cannot be serialized".to_owned())))
}

fn versioned(call: &Call<'_>, meta: &ObjectMeta) -> Result<(), CallError> {
    match meta.resource_version.as_deref() {
        Some(version) if !version.is_empty() => Ok(()),
        _ => Err(call.failed(Cause::Request("a write needs the resourceVersion that was read".to_owned()))),
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() }
}

/// Lets the API server refuse unknown fields: CRDs that are older than this operator would drop them silently, and with
/// them what a decision is based on (kubernetes: unknown-fields-are-pruned).
fn strict(
    request: Result<http::Request<Vec<u8>>, kube_core::request::Error>,
) -> Result<http::Request<Vec<u8>>, kube_core::request::Error> {
    let mut request = request?;
    let uri = request.uri().to_string();
    let and = if uri.contains('?') { '&' } else { '?' };
    *request.uri_mut() = http::Uri::try_from(format!("{uri}{and}fieldValidation=Strict"))
        .map_err(|error| kube_core::request::Error::BuildRequest(error.into()))?;
    Ok(request)
}

fn metadata_only(
    request: Result<http::Request<Vec<u8>>, kube_core::request::Error>,
) -> Result<http::Request<Vec<u8>>, kube_core::request::Error> {
    request.map(|mut request| {
        request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(METADATA));
        request
    })
}
