//! Values of ONNX Runtime: input tensors that it borrows, and outputs that it returns.
#![expect(unsafe_code, reason = "values cross the C API as pointers")]

use drisse_core::{
    Data, DataType, DataView, Error, Result, Shape, Sink, Strings, Tensor, TensorView, ValueView,
    element_count,
};
use ort::sys::{ONNXTensorElementDataType as Type, ONNXType, OrtValue};
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};
use std::sync::LazyLock;

/// The deepest nesting of an output (sequences of sequences …): deeper than any real model's.
const MAX_NESTING: u32 = 8;

pub(super) fn check(status: ort::sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: every status comes straight from a call of the API and is passed on once.
    unsafe { ort::Error::result_from_status(status) }
}

/// A value of ONNX Runtime, released when dropped. A value that is made from a tensor borrows its elements.
pub(super) struct Value<'a> {
    raw: NonNull<OrtValue>,
    _elements: PhantomData<&'a Tensor>,
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: `raw` is owned by this value alone.
        unsafe { (ort::api().ReleaseValue)(self.raw.as_ptr()) };
    }
}

/// The description of CPU memory that the API requires for every tensor.
struct CpuMemory(NonNull<ort::sys::OrtMemoryInfo>);

// SAFETY: an OrtMemoryInfo is a description that nothing changes after its creation.
unsafe impl Send for CpuMemory {}
// SAFETY: as above.
unsafe impl Sync for CpuMemory {}

static CPU: LazyLock<Option<CpuMemory>> = LazyLock::new(|| {
    let mut raw = null_mut();
    let (allocator, memory) =
        (ort::sys::OrtAllocatorType::OrtDeviceAllocator, ort::sys::OrtMemType::OrtMemTypeCPU);
    // SAFETY: writes one pointer; the description lives as long as the process.
    check(unsafe { (ort::api().CreateCpuMemoryInfo)(allocator, memory, &mut raw) }).ok()?;
    NonNull::new(raw).map(CpuMemory)
});

impl<'a> Value<'a> {
    /// Creates a value that borrows the elements of `tensor`; strings are copied.
    pub(super) fn borrowing(tensor: &'a Tensor) -> ort::Result<Self> {
        match &tensor.data {
            Data::Raw(buffer) => {
                let memory = CPU.as_ref().ok_or_else(|| ort::Error::new("no CPU memory"))?;
                let bytes = buffer.bytes();
                let mut raw = null_mut();
                // SAFETY: `tensor` outlives the value (its lifetime) and has the stated length, and inputs are
                // only read: the C API takes `void*` because the same call creates outputs.
                check(unsafe {
                    (ort::api().CreateTensorWithDataAsOrtValue)(
                        memory.0.as_ptr(),
                        bytes.as_ptr().cast_mut().cast(),
                        bytes.len(),
                        tensor.shape.as_ptr(),
                        tensor.shape.len(),
                        to_ort(tensor.datatype),
                        &mut raw,
                    )
                })?;
                Self::created(raw)
            }
            Data::Strings(strings) => Self::of_strings(&tensor.shape, strings),
        }
    }

    fn of_strings(shape: &[i64], strings: &Strings) -> ort::Result<Self> {
        let mut raw = null_mut();
        let datatype = to_ort(DataType::Bytes);
        // SAFETY: the allocator is the process's default allocator; the shape has the stated length.
        check(unsafe {
            (ort::api().CreateTensorAsOrtValue)(allocator()?, shape.as_ptr(), shape.len(), datatype, &mut raw)
        })?;
        let value = Self::created(raw)?;
        for (index, string) in strings.iter().enumerate() {
            let mut buffer = null_mut();
            // SAFETY: `index` is less than the element count of the shape; the returned buffer has
            // exactly `string.len()` bytes and is written before any other call.
            unsafe {
                check((ort::api().GetResizedStringTensorElementBuffer)(
                    raw,
                    index,
                    string.len(),
                    &mut buffer,
                ))?;
                std::ptr::copy_nonoverlapping(string.as_ptr(), buffer.cast::<u8>(), string.len());
            }
        }
        Ok(value)
    }

    /// Takes ownership of a value that the API created; `None` for null.
    ///
    /// # Safety
    /// `raw` is null or a value that no other code releases.
    pub(super) unsafe fn owning(raw: *mut OrtValue) -> Option<Self> {
        NonNull::new(raw).map(|raw| Self { raw, _elements: PhantomData })
    }

    fn created(raw: *mut OrtValue) -> ort::Result<Self> {
        // SAFETY: `raw` is the pointer that a creating function has just written.
        unsafe { Self::owning(raw) }.ok_or_else(|| ort::Error::new("ONNX Runtime returned no value"))
    }

    pub(super) fn as_ptr(&self) -> *const OrtValue {
        self.raw.as_ptr()
    }

    /// Passes the value to `out`: a tensor as a view of its memory, any other value as a copy.
    pub(super) fn read(&self, index: usize, out: &mut dyn Sink) -> Result<()> {
        match self.kind().map_err(internal)? {
            Some(ONNXType::ONNX_TYPE_TENSOR) => {
                self.tensor(|tensor| out.output(index, ValueView::Tensor(tensor)))
            }
            kind => out.output(index, ValueView::Other(&self.other(kind, 0)?)),
        }
    }

    /// Returns the type of the value; `None` for an empty optional.
    fn kind(&self) -> ort::Result<Option<ONNXType>> {
        let (mut there, mut kind) = (0, ONNXType::ONNX_TYPE_UNKNOWN);
        // SAFETY: each call reads the value and writes one number; `ONNXType` has every kind of the API.
        unsafe {
            check((ort::api().HasValue)(self.as_ptr(), &mut there))?;
            if there == 0 {
                return Ok(None);
            }
            check((ort::api().GetValueType)(self.as_ptr(), &mut kind))?;
        }
        Ok(Some(kind))
    }

    fn other(&self, kind: Option<ONNXType>, depth: u32) -> Result<drisse_core::Value> {
        if depth == MAX_NESTING {
            return Err(Error::invalid(format!("an output is nested deeper than {MAX_NESTING} levels")));
        }
        Ok(match kind {
            None => drisse_core::Value::Absent,
            Some(ONNXType::ONNX_TYPE_TENSOR) => {
                let mut copy = None;
                self.tensor(|tensor| {
                    copy = Some(tensor.to_owned());
                    Ok(())
                })?;
                copy.map_or(drisse_core::Value::Absent, drisse_core::Value::Tensor)
            }
            Some(ONNXType::ONNX_TYPE_SEQUENCE) => {
                let mut count = 0;
                // SAFETY: reads the value and writes one number.
                check(unsafe { (ort::api().GetValueCount)(self.as_ptr(), &mut count) }).map_err(internal)?;
                let element = |index| {
                    let element = self.element(index).map_err(internal)?;
                    element.other(element.kind().map_err(internal)?, depth + 1)
                };
                drisse_core::Value::Sequence((0..count).map(element).collect::<Result<_>>()?)
            }
            Some(ONNXType::ONNX_TYPE_MAP) => {
                let part = |index| {
                    let part = self.element(index).map_err(internal)?;
                    match part.other(part.kind().map_err(internal)?, depth + 1)? {
                        drisse_core::Value::Tensor(tensor) => Ok(tensor),
                        _ => Err(Error::invalid("an output is a map whose keys or values are not a tensor")),
                    }
                };
                drisse_core::Value::Map { keys: part(0)?, values: part(1)? }
            }
            Some(kind) => {
                return Err(Error::invalid(format!(
                    "an output has a type that Drisse does not support: {kind:?}"
                )));
            }
        })
    }

    /// Returns an element of a sequence, or the keys (0) or the values (1) of a map.
    fn element(&self, index: usize) -> ort::Result<Self> {
        let index = i32::try_from(index).map_err(|_| ort::Error::new("a sequence is too long"))?;
        let mut raw = null_mut();
        // SAFETY: the index is less than the count that the API returned; the element is a value of its own.
        check(unsafe { (ort::api().GetValue)(self.as_ptr(), index, allocator()?, &mut raw) })?;
        Self::created(raw)
    }

    fn tensor(&self, then: impl FnOnce(TensorView<'_>) -> Result<()>) -> Result<()> {
        let (datatype, shape) = self.type_and_shape().map_err(internal)?;
        let datatype = datatype
            .ok_or_else(|| Error::invalid("an output has a datatype that Drisse does not support"))?;
        let elements = element_count(&shape).ok_or_else(|| Error::internal("an output's shape overflows"))?;
        if datatype == DataType::Bytes {
            let strings = self.strings(elements).map_err(internal)?;
            return then(TensorView { datatype, shape: &shape, data: DataView::Strings(&strings) });
        }
        let bytes =
            datatype.byte_size(elements).ok_or_else(|| Error::internal("an output's size overflows"))?;
        let mut data = null_mut();
        // SAFETY: reads the value and writes one pointer.
        check(unsafe { (ort::api().GetTensorMutableData)(self.raw.as_ptr(), &mut data) })
            .map_err(internal)?;
        let data: &[u8] = match NonNull::new(data.cast::<u8>()) {
            // SAFETY: a tensor of this datatype and shape has this many bytes; they live as long as
            // `self` and do not change.
            Some(data) if bytes > 0 => unsafe { std::slice::from_raw_parts(data.as_ptr(), bytes) },
            _ if bytes == 0 => &[],
            _ => return Err(Error::internal("an output has no memory")),
        };
        then(TensorView { datatype, shape: &shape, data: DataView::Raw(data) })
    }

    fn type_and_shape(&self) -> ort::Result<(Option<DataType>, Shape)> {
        let api = ort::api();
        let (mut info, mut code, mut rank) = (null_mut(), 0_i32, 0);
        let mut shape = Shape::new();
        // SAFETY: `info` is created here and released on every path; the datatype is written as the i32 that it
        // is in C, because the library may know more datatypes than the enum; `shape` has `rank` elements.
        unsafe {
            check((api.GetTensorTypeAndShape)(self.as_ptr(), &mut info))?;
            let result = check((api.GetTensorElementType)(info, (&raw mut code).cast::<Type>()))
                .and_then(|()| check((api.GetDimensionsCount)(info, &mut rank)))
                .and_then(|()| {
                    shape.resize(rank, 0);
                    check((api.GetDimensions)(info, shape.as_mut_ptr(), rank))
                });
            (api.ReleaseTensorTypeAndShapeInfo)(info);
            result?;
        }
        Ok((DataType::ALL.into_iter().find(|&datatype| to_ort(datatype) as i32 == code), shape))
    }

    fn strings(&self, elements: usize) -> ort::Result<Strings> {
        let api = ort::api();
        let mut total = 0;
        // SAFETY: reads the value and writes one number.
        check(unsafe { (api.GetStringTensorDataLength)(self.as_ptr(), &mut total) })?;
        let (mut bytes, mut starts) = (vec![0_u8; total], vec![0_usize; elements]);
        // SAFETY: both arrays have the stated lengths, which the API requires.
        check(unsafe {
            (api.GetStringTensorContent)(
                self.as_ptr(),
                bytes.as_mut_ptr().cast(),
                total,
                starts.as_mut_ptr(),
                elements,
            )
        })?;
        // The API returns where each string starts; a string ends where the next one starts.
        if !starts.is_empty() {
            starts.remove(0);
            starts.push(total);
        }
        Ok(Strings::from_parts(bytes, starts))
    }
}

fn allocator() -> ort::Result<*mut ort::sys::OrtAllocator> {
    let mut allocator = null_mut();
    // SAFETY: writes one pointer, to an allocator that lives as long as the library.
    check(unsafe { (ort::api().GetAllocatorWithDefaultOptions)(&mut allocator) })?;
    Ok(allocator)
}

fn internal(error: ort::Error) -> Error {
    Error::internal(format!("cannot read an output: {}", super::message::one_line(error.message())))
}

/// Returns ONNX Runtime's number of a datatype; the last three differ from ONNX's.
fn to_ort(datatype: DataType) -> Type {
    match datatype {
        DataType::Bool => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::Uint8 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::Uint16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::Uint32 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::Uint64 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::Int8 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::Int16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::Int32 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::Int64 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::Fp16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Bf16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DataType::Fp32 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::Fp64 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::Bytes => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        DataType::Complex64 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX64,
        DataType::Complex128 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX128,
        DataType::Float8E4M3Fn => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
        DataType::Float8E4M3FnUz => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ,
        DataType::Float8E5M2 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2,
        DataType::Float8E5M2FnUz => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ,
        DataType::Float8E8M0 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E8M0,
        DataType::Float4E2M1 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT4E2M1,
        DataType::Uint4 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4,
        DataType::Int4 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4,
        DataType::Uint2 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT2,
        DataType::Int2 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT2,
    }
}
