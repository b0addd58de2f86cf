// run_cases CASES OUT ISA THREADS: runs each case and writes the float32 values of all outputs, one after
// the other. For processors without a Python here: AArch64 under emulation.
#include "cases.h"

int main(int argc, char** argv) {
  if (argc != 5) fail("run_cases CASES OUT ISA THREADS");
  int isa = std::atoi(argv[3]), threads = std::atoi(argv[4]);
  if (!irn_isa_available(isa)) fail("the instruction set is not available");
  std::ofstream out(argv[2], std::ios::binary);
  char err[512];
  for (Case& c : CaseReader(argv[1]).all()) {
    PlanHolder holder;
    if (irn_plan_create(c.code.data(), c.code.size(), c.blob.data(), c.blob.size(), isa, &holder.plan, err,
                        sizeof err))
      fail(err);
    std::vector<irn_tensor> in, results(c.outputs);
    for (Input& i : c.inputs) in.push_back(tensor_of(i.values.data(), i.shape));
    if (irn_plan_shapes(holder.plan, in.data(), in.size(), results.data(), results.size(), err, sizeof err))
      fail(err);
    std::vector<std::vector<float>> values;
    for (irn_tensor& t : results) {
      values.emplace_back(size_t(elements(t)));
      t.data = values.back().data();
    }
    for (int repeat = 0; repeat < 2; ++repeat)  // the second run finds a used workspace
      if (irn_plan_run(holder.plan, in.data(), in.size(), results.data(), results.size(), threads, nullptr, 0,
                       err, sizeof err))
        fail(err);
    for (const auto& v : values)
      out.write(reinterpret_cast<const char*>(v.data()), std::streamsize(v.size() * sizeof(float)));
  }
}
