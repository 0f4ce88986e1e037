// A device that torch calls cuda, in memory of the CPU: every operator that the CPU has runs there on what lies on it.
//
// It knows where a tensor lies and nothing else about a GPU. An operator that is given tensors of both devices refuses
// them, but for those that a GPU takes from the CPU too: single numbers, copies, and indices.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <set>

namespace {

using c10::IValue;
const c10::Device GPU(c10::DeviceType::CUDA, 0), CPU(c10::DeviceType::CPU);
const std::set<std::string> MAY_MIX = {
    "aten::copy_", "aten::_copy_from", "aten::_foreach_copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_",
    "aten::index_put", "aten::_unsafe_index", "aten::_unsafe_index_put",
};

struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
    const c10::Stream only{c10::Stream::DEFAULT, GPU};
    c10::Device exchangeDevice(c10::Device) const override { return GPU; }
    c10::Device getDevice() const override { return GPU; }
    c10::Stream getStream(c10::Device) const noexcept override { return only; }
    c10::Stream getDefaultStream(c10::Device) const override { return only; }
    c10::Stream getNewStream(c10::Device, int) const override { return only; }
    c10::Stream exchangeStream(c10::Stream) const noexcept override { return only; }
    void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// What is drawn on the device comes from a generator of its own.
at::Generator& drawn_from() {
    static at::Generator generator = at::detail::createCPUGenerator(0);
    return generator;
}

struct Hooks : at::CUDAHooksInterface {
    explicit Hooks(at::CUDAHooksArgs) {}
    void init() const override {}
    bool hasCUDA() const override { return true; }
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    int getNumGPUs() const override { return 1; }
    c10::DeviceIndex deviceCount() const override { return 1; }
    c10::DeviceIndex current_device() const override { return 0; }
    c10::DeviceIndex getCurrentDevice() const override { return 0; }
    const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return drawn_from(); }
    at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
    bool isPinnedPtr(const void*) const override { return false; }
    void deviceSynchronize(c10::DeviceIndex) const override {}
};

// Bytes on the device, which a storage of the CPU's holds, and how many there were at most.
std::atomic<int64_t> allocated{0}, most_allocated{0};
struct Kept {
    c10::Storage storage;
    const int64_t n = storage.nbytes();
    explicit Kept(c10::Storage given) : storage(std::move(given)) {
        const int64_t now = allocated += n;
        for (int64_t most = most_allocated; most < now && !most_allocated.compare_exchange_weak(most, now);) {}
    }
    ~Kept() { allocated -= n; }
    static void release(void* kept) { delete static_cast<Kept*>(kept); }
};
c10::DataPtr on_the_device(c10::Storage storage) {
    void* data = storage.mutable_data();
    return {data, new Kept(std::move(storage)), &Kept::release, GPU};
}

struct Memory : c10::Allocator {
    c10::DataPtr allocate(size_t n) override {
        return on_the_device(c10::Storage(c10::Storage::use_byte_size_t(), n, c10::GetCPUAllocator(), true));
    }
    c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
    void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
};
Memory memory;

at::Tensor of_storage(c10::Storage storage, const at::Tensor& like, c10::DispatchKey key) {
    auto found = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
    found.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
    if (like.is_conj()) found._set_conj(true);
    if (like.is_neg()) found._set_neg(true);
    return found;
}

void nothing(void*) {}

// One call of an operator: its tensors on the device as those of the CPU in the same memory, and what comes of it back.
struct Call {
    const c10::FunctionSchema& schema;
    std::vector<at::Tensor> given, seen;
    bool is_here = false;

    at::Tensor to_cpu(const at::Tensor& tensor) {
        if (!tensor.defined()) return tensor;
        if (tensor.is_cpu()) {
            TORCH_CHECK(tensor.dim() == 0 || MAY_MIX.count(schema.name()),
                        "Expected all tensors to be on the same device, but ", schema.name(), " was given one of ",
                        tensor.sizes(), " on the CPU");
            return tensor;
        }
        is_here = true;
        const auto& storage = tensor.storage();
        c10::Storage alias(c10::Storage::use_byte_size_t(), storage.nbytes(),
                           c10::DataPtr(storage.mutable_data(), storage.mutable_data(), &nothing, CPU),
                           c10::GetCPUAllocator(), /*resizable=*/true);
        given.push_back(tensor);
        seen.push_back(of_storage(std::move(alias), tensor, c10::DispatchKey::CPU));
        return seen.back();
    }
    IValue to_cpu(const IValue& value) {
        if (value.isTensor()) return to_cpu(value.toTensor());
        if (value.isDevice() && value.toDevice().is_cuda()) return is_here = true, IValue(CPU);
        if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor& each : value.toTensorList()) list.push_back(to_cpu(each));
            return list;
        }
        if (value.isOptionalTensorList()) {
            c10::List<std::optional<at::Tensor>> list;
            for (const std::optional<at::Tensor>& each : value.toOptionalTensorList())
                list.push_back(each ? std::optional(to_cpu(*each)) : each);
            return list;
        }
        return value;
    }

    at::Tensor back(const at::Tensor& tensor) {
        if (!tensor.defined() || !tensor.is_cpu()) return tensor;
        for (size_t i = 0; i < seen.size(); i++) {
            if (tensor.is_same(seen[i])) {
                follow(i);
                return given[i];
            }
            if (tensor.storage().is_alias_of(seen[i].storage()))  // a view
                return of_storage(given[i].storage(), tensor, c10::DispatchKey::CUDA);
        }
        c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), on_the_device(tensor.storage()),
                             &memory, /*resizable=*/true);
        return of_storage(std::move(storage), tensor, c10::DispatchKey::CUDA);
    }
    IValue back(const IValue& value) {
        if (value.isTensor()) return back(value.toTensor());
        if (value.isTensorList()) {
            c10::List<at::Tensor> list;
            for (const at::Tensor& each : value.toTensorList()) list.push_back(back(each));
            return list;
        }
        return value;
    }
    // an output that was resized, or was given other memory
    void follow(size_t i) {
        const auto &from = seen[i].storage(), &to = given[i].storage();
        if (from.data() != to.data() || from.nbytes() != to.nbytes()) {
            to.unsafeGetStorageImpl()->set_data_ptr(on_the_device(from));
            to.unsafeGetStorageImpl()->set_nbytes(from.nbytes());
        }
        if (seen[i].sizes() != given[i].sizes() || seen[i].strides() != given[i].strides())
            given[i].unsafeGetTensorImpl()->set_sizes_and_strides(seen[i].sizes(), seen[i].strides(),
                                                                  seen[i].storage_offset());
    }
};

void on_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    Call call{op.schema()};
    const size_t n = op.schema().arguments().size();
    std::vector<IValue> arguments(stack->end() - n, stack->end());
    torch::jit::drop(stack, n);
    for (const IValue& each : arguments) torch::jit::push(*stack, call.to_cpu(each));
    for (size_t i = 0; call.is_here && i < n; i++)
        if (arguments[i].isNone() && op.schema().arguments()[i].name() == "generator")
            *(stack->end() - n + i) = drawn_from();
    {
        at::AutoDispatchBelowAutograd below;
        op.callBoxed(stack);
    }
    for (size_t i = 0; i < call.seen.size(); i++) call.follow(i);
    if (!call.is_here) return;
    const size_t m = op.schema().returns().size();
    for (auto each = stack->end() - m; each != stack->end(); ++each) *each = call.back(*each);
}

at::Tensor& lay_out(at::Tensor& tensor, c10::Storage storage, int64_t offset, at::IntArrayRef sizes, at::IntArrayRef strides) {
    tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
    if (strides.size() == sizes.size())
        tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
    else
        tensor.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
    return tensor;
}
at::Tensor& lay_out_all(at::Tensor& tensor, c10::Storage storage) {
    const int64_t n = storage.nbytes() / tensor.itemsize();
    return lay_out(tensor, std::move(storage), 0, {n}, {1});
}
at::Tensor& lay_out_as(at::Tensor& tensor, const at::Tensor& other) {
    return lay_out(tensor, other.storage(), other.storage_offset(), other.sizes(), other.strides());
}
TORCH_LIBRARY_IMPL(aten, CUDA, m) {
    m.impl("set_.source_Storage_storage_offset", &lay_out);
    m.impl("set_.source_Storage", &lay_out_all);
    m.impl("set_.source_Tensor", &lay_out_as);
}
TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>()); }

TORCH_LIBRARY(pretended_gpu, m) {
    m.def("get_state() -> Tensor", [] { return drawn_from().get_state(); });
    m.def("set_state(Tensor state) -> ()", [](const at::Tensor& state) { drawn_from().set_state(state); });
    m.def("memory() -> (int, int)", [] { return std::make_tuple(allocated.load(), most_allocated.load()); });
    m.def("forget_most() -> ()", [] { most_allocated = allocated.load(); });
    m.def("seed(int seed) -> ()", [](int64_t seed) { drawn_from().set_current_seed(seed); });
}

}  // namespace

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}

// To be called once: makes the device known, and every operator that has a kernel for the CPU one for it.
extern "C" void begin() {
    c10::SetAllocator(c10::DeviceType::CUDA, &memory);
    static torch::Library aten(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
        const auto op = dispatcher.findOp(name);
        const bool is_here = op && (op->hasKernelForDispatchKey(c10::DispatchKey::CPU) || name.name == "aten::copy_");
        if (name.name.rfind("aten::", 0) == 0 && is_here && !op->hasKernelForDispatchKey(c10::DispatchKey::CUDA))
            aten.impl(c10::toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&on_the_cpu>());
    }
}
